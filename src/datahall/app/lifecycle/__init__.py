"""The walk through the packages: from an application file to a version with traffic."""
