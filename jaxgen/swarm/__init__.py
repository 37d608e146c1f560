"""Many sites that differ and may lie: robust aggregation, attacks, swarm learning, allocation of chips without a coordinator."""
