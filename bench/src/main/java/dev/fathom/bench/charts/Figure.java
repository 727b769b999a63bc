package dev.fathom.bench.charts;

import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Font;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

import org.knowm.xchart.CategoryChart;
import org.knowm.xchart.CategoryChartBuilder;
import org.knowm.xchart.CategorySeries;
import org.knowm.xchart.CategorySeries.CategorySeriesRenderStyle;
import org.knowm.xchart.VectorGraphicsEncoder;
import org.knowm.xchart.VectorGraphicsEncoder.VectorGraphicsFormat;
import org.knowm.xchart.style.CategoryStyler;
import org.knowm.xchart.style.markers.SeriesMarkers;

/** Values of some series at the same places: as a drawing, and as the table of its numbers. */
final class Figure {
    private static final Map<String, Color> COLOURS = Map.of("f32", new Color(0x4c78a8), "bf16", new Color(0xf58518),
            "i8", new Color(0x54a24b), "q8_0", new Color(0xb279a2), "q4_0", new Color(0xe45756));
    private static final Color OTHERS = new Color(0x4c78a8);
    private static final Color LEVEL = new Color(0x666666);
    private static final Color GRID = new Color(0xe8e8e8);
    private static final float[] DASHES = {5, 3};

    private final String title;
    /** What the values are. */
    private final String unit;
    private final String places;
    private final String format;
    /** A line at this height. */
    private final double level;
    private final boolean bars;
    private final Map<String, Map<String, Double>> series = new LinkedHashMap<>();

    private Figure(String title, String unit, String places, String format, double level, boolean bars) {
        this.title = title;
        this.unit = unit;
        this.places = places;
        this.format = format;
        this.level = level;
        this.bars = bars;
    }

    static Figure ofLimit(String title, String places) {
        return new Figure(title, "% of the limit", places, "%.0f", 100, false);
    }

    static Figure times(String title, String places) {
        return new Figure(title, "times as fast", places, "%.2f", 1, false);
    }

    static Figure bars(String title, String places) {
        return new Figure(title, "times as fast", places, "%.2f", 1, true);
    }

    /** A name begins with the type that gives it its colour; with a comma in it, the line is dashed. */
    void add(String name, String place, double value) {
        series.computeIfAbsent(name, n -> new LinkedHashMap<>()).put(place, value);
    }

    private List<String> allPlaces() {
        return List.copyOf(series.values().iterator().next().keySet());
    }

    /** As elements of a page. Letters of the drawing would be outlines: what can be is text of the page. */
    String html() throws IOException {
        StringBuilder out = new StringBuilder("<figure>\n<figcaption><b>").append(title).append("</b>: ").append(unit)
                .append(" by ").append(places).append("<br>");
        for (String name : series.keySet()) {
            if (!bars) out.append(String.format("<span style=\"border-color: #%06x; border-style: %s\">%s</span> ",
                    colour(name).getRGB() & 0xffffff, isDashed(name) ? "dashed" : "solid", name));
        }
        return out.append("</figcaption>\n").append(svg()).append("\n<details><summary>numbers</summary>\n")
                .append(table()).append("</details>\n</figure>\n").toString();
    }

    private String table() {
        StringBuilder out = new StringBuilder("<table><tr><th>").append(places);
        for (String place : allPlaces()) out.append("<th>").append(place);
        series.forEach((name, values) -> {
            out.append("\n<tr><th>").append(name);
            for (String place : allPlaces()) {
                Double value = values.get(place);
                out.append("<td>").append(value == null ? "" : String.format(Locale.ROOT, format, value));
            }
        });
        return out.append("\n</table>\n").toString();
    }

    // ---- drawing ---------------------------------------------------------------------------------------------------

    private String svg() throws IOException {
        CategoryChart chart = new CategoryChartBuilder().width(560).height(260).build();
        style(chart.getStyler());
        if (!bars) line(chart, " ", Collections.nCopies(allPlaces().size(), level), LEVEL, null);
        series.forEach((name, values) -> {
            List<Double> heights = new ArrayList<>();
            for (String place : allPlaces()) heights.add(values.get(place)); // null leaves a gap
            if (bars) chart.addSeries(name, allPlaces(), heights).setFillColor(OTHERS);
            else line(chart, name, heights, colour(name), isDashed(name) ? DASHES : null);
        });
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        VectorGraphicsEncoder.saveVectorGraphic(chart, out, VectorGraphicsFormat.SVG);
        String svg = out.toString(StandardCharsets.UTF_8);
        // A tenth of a pixel is enough, and the letters are outlines of many points.
        return svg.substring(svg.indexOf("<svg")).replaceAll("(\\d\\.\\d)\\d+", "$1").replaceAll("\\s*\n\\s*", "\n")
                .strip();
    }

    private CategorySeries line(CategoryChart chart, String name, List<Double> heights, Color colour, float[] dashes) {
        CategorySeries line = chart.addSeries(name, allPlaces(), heights);
        line.setChartCategorySeriesRenderStyle(CategorySeriesRenderStyle.Line);
        line.setLineColor(colour);
        line.setMarkerColor(colour);
        line.setMarker(colour == LEVEL ? SeriesMarkers.NONE : SeriesMarkers.CIRCLE);
        line.setLineStyle(new BasicStroke(colour == LEVEL ? 1 : 1.8f, BasicStroke.CAP_BUTT, BasicStroke.JOIN_ROUND, 10,
                dashes, 0));
        return line;
    }

    private static boolean isDashed(String name) {
        return name.contains(",");
    }

    private static Color colour(String name) {
        return COLOURS.getOrDefault(name.split("[ ,]")[0], OTHERS);
    }

    private void style(CategoryStyler styler) {
        double most = series.values().stream().flatMap(values -> values.values().stream())
                .mapToDouble(Double::doubleValue).max().orElse(0);
        styler.setYAxisMin(0.0).setYAxisMax(1.1 * Math.max(level, most));
        styler.setYAxisDecimalPattern("0.#");
        styler.setLegendVisible(false).setChartTitleVisible(false).setChartBackgroundColor(Color.WHITE);
        styler.setAxisTickLabelsFont(new Font(Font.SANS_SERIF, Font.PLAIN, 11));
        styler.setMarkerSize(5);
        styler.setOverlapped(true);
        styler.setPlotGridLinesStroke(new BasicStroke(1)).setPlotGridLinesColor(GRID);
        if (bars) styler.setLabelsVisible(true).setAvailableSpaceFill(0.5);
    }
}
