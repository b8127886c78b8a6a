"""What people see of evaluations: the page of one, and the comparison of two."""
