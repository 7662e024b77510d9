"""Programs that print a table against a baseline measured in the same run, and the machine they ran on."""
