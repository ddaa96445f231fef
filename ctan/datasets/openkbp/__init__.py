"""OpenKBP: head-and-neck planning data as sparse CSV files."""
