"""The device's side: links kept up to a server, and the targets behind them."""
