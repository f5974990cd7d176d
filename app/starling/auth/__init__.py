"""Who may enter: tokens and the credentials they carry."""
