"""Reports on a file: terminal output, tables, report.html."""
