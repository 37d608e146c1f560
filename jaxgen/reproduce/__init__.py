"""Claims of the papers, repeated at small scale; one file each."""
