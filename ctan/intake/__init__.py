"""From raw files to a store: reading and measuring cases, planning the working grid, packing, looking, converting."""
