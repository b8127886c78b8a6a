"""What a sample is: its columns, how shards hold it, and how it is read from them."""
