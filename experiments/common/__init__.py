"""What all experiments share: command line, results folders, resume, progress, plot style."""
