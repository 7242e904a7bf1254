"""What is wrong with a site's workers, beside what the last look found."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("residency", "0008_site_zone")]

    operations = [migrations.AddField("sitehealth", "troubles", models.JSONField(default=list))]
