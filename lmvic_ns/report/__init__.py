"""What people read of a file: terminal lines, tables, report.html."""
