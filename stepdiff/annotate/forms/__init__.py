"""What people answer about pairs of clips: tasks, answers, agreement, statistics, exports."""
