//! Door: the command line: Docker's grammar and output.
