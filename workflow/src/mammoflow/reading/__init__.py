"""Reading exams twice: files of readings, their rules, the agreement of two readers, and their disputes."""
