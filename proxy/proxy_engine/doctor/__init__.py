"""Whether settings and machine are fit: checks that explain what they find, and change nothing."""
