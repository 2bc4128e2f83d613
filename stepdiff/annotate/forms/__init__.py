"""Answers of people about pairs of clips: tasks, answers, agreement, statistics, exports."""
