"""The HTTP server: endpoints of other vendors' APIs, made of one turn service. Needs the extra stepahead[server]."""
