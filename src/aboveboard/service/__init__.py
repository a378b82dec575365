"""What Aboveboard does, one function per verb."""
