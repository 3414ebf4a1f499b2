"""What backends lower programs with: one file a format or a compiler, for the file in backends/ that needs it."""
