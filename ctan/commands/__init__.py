"""The commands of `ctan`, a module a group. Each parses and calls one function."""
