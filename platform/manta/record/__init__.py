"""The record of a run or a sweep: the files of its folder, and checks of what they claim."""
