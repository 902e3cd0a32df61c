"""Bad input for every command, made from a seed: what each case is, and how it must end."""
