"""One table of decisions, and two applications that take them: a hooks module, and a Django project behind proxies."""
