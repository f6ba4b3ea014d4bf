"""A plug-in package for the contract of runners: name it among a runner's plug-ins."""
