"""What is true of a run or a sweep: its folder's files, read, written, and held against one another."""
