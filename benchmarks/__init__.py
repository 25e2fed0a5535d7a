"""What is timed, against which peer; run as `python -m benchmarks` or `python -m benchmarks NAME`."""
