"""What the scripts and the console commands run: each file parses arguments and calls the package."""
