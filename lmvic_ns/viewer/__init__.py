"""What people look at: panels for nerfstudio's viewer, a page for files, and the colours of both."""
