"""Where a job runs: on this machine, in a Docker container or in a Kubernetes pod."""
