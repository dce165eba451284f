"""How what a running proxy says is shown: units, tables, and the forms of ``-o``. Pure, but for who writes."""
