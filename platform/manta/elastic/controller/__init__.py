"""What runs in Ray Train's controller: how many workers there are, where, and when that changes. All that is internal to Ray Train is here."""
