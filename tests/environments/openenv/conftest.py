"""What is no test here."""

collect_ignore = ["package_server.py"]  # imports a package that only servers in processes of their own have
