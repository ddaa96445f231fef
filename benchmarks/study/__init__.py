"""The study of architectures on real data: a table of trainings in, scores, tables and figures out; see README.md."""
