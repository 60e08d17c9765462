"""From multicast to committed ticks: receive, spool, arbitrate, decode, store."""
