"""How a process of task code is started: python (warm), deno, shell; logs."""
