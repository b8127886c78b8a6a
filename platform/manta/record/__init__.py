"""What is true of a run or a sweep: the files of its folder, and what they claim, recomputed."""
