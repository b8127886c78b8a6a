"""What people see of a run or a sweep: console, pages, comparison, W&B. Reads `record`."""
