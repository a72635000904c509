"""`python -m apps.endpoint --site DIR`."""

from apps.endpoint.receiver import main

main()
