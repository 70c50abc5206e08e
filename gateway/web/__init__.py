"""The HTTP surface: REST, the channels websocket, health, metrics, and who may use them."""
