"""What runs beside training: moving averages, guards, measurements, sample pictures and scheduled evaluation."""
