"""Training jobs: queue, policy, GPUs and the processes that run them."""
