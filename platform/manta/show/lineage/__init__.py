"""Where a model, a run or a corpus comes from, and what a file or a document went into."""
