"""GiGPO (Group-in-Group Policy Optimization, arXiv:2505.10978) on Lightning: the core, without Lightning."""
