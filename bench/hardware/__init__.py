"""Small Verilog operators of the formats, synthesised with free tools: gates, time and power of a product."""
