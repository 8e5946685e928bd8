"""The key server's library: it knows neither Flask nor Airflow (docs/adr/0001-layout.md)."""
