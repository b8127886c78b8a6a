"""How people see a run or a sweep: console, pages, comparison, W&B. Views of what `record` keeps."""
