"""What ``python -m bayesflow_nn`` trains, compares, prints and draws."""
