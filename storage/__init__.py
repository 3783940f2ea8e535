"""Where values live: Arrow partitions on any fsspec location, and the datasets they make up."""
