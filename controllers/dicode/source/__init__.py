"""Files and git → desired: DesiredTask objects and bundles."""
