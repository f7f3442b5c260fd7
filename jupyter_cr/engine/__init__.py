"""Linux processes: freeze, collect, twin, rebuild. Knows no Jupyter and no store."""
