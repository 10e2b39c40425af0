"""What the front doors for models share: upstreams, HTTP around handlers, driving an interception.
Nothing here knows one vendor's wire from another's, but for the shape of an error."""
