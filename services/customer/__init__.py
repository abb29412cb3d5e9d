"""An ISP's customers."""
